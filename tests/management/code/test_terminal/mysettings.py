from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "no secret"
USE_TZ = True
INSTALLED_APPS = ["proctree_dagster"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
PROCTREE = {"FUNCTION_MODULES": ["work"], "DAGSTER_HOME": None}
