from django.conf import settings

settings.configure(
    EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend",
    INSTALLED_APPS=["proctree_dagster"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "test_books"}},
)
import django

django.setup()
import django.test
import django.test.utils
from django.core import mail

from proctree_dagster.support import isolation

mail.send_mail("Statement", "Enclosed.", "a@example.com", ["b@example.com"])
assert len(mail.outbox) == 1
assert not isolation.is_active()
django.test.utils.setup_test_environment()
assert isolation.is_active()
del mail.outbox
assert isolation.is_active()
