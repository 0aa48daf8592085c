from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def take_from_tags(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Fill the column in: until now the family of a run was found in its tags only."""
    rows = apps.get_model("proctree_dagster", "OutboxRun").objects.using(
        schema_editor.connection.alias
    )
    for row in rows.all():
        family = row.tags.get("proctree/family") if isinstance(row.tags, dict) else None
        if isinstance(family, str):
            rows.filter(pk=row.pk).update(family=family[:36])


class Migration(migrations.Migration):
    dependencies = [
        ("proctree_dagster", "0006_triggers"),
    ]

    operations = [
        migrations.AddField(
            model_name="outboxrun",
            name="family",
            field=models.CharField(
                blank=True,
                db_index=True,
                default="",
                help_text="Id of the first run of those that it belongs to, as in its tags.",
                max_length=36,
                verbose_name="family",
            ),
        ),
        migrations.RunPython(take_from_tags, migrations.RunPython.noop),
    ]
