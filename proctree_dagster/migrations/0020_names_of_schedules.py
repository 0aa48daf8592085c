"""A tree may have several schedules, each with a name; the present one is called ``default``."""

import django.db.models.deletion
from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from proctree_dagster.domain import names


def name_in_dagster(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Write down what Dagster calls each schedule, so that it keeps its state and its history."""
    model = apps.get_model("proctree_dagster", "ProcessTreeSchedule")
    schedules = model.objects.using(schema_editor.connection.alias)
    columns = ("pk", "process_tree__job_name", "process_tree__name")
    for pk, job_name, tree in list(schedules.values_list(*columns)):
        job_name = names.dagster_name(job_name or tree)
        schedules.filter(pk=pk).update(dagster_name=names.schedule_name(job_name, "default"))


def refuse_several(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Go back only where no schedule would be lost."""
    schedules = apps.get_model("proctree_dagster", "ProcessTreeSchedule").objects
    named = schedules.using(schema_editor.connection.alias).exclude(name="default")
    found = [f"{tree!r}: {name!r}" for tree, name in named.values_list("process_tree__name", "name")]
    if found:
        raise RuntimeError(
            "The release before this one knows one schedule for each tree. Remove or rename these "
            f"first, or they would be lost: {'; '.join(found[:20])}"
            f"{f' and {len(found) - 20} more' if len(found) > 20 else ''}."
        )


class Migration(migrations.Migration):

    dependencies = [
        ('proctree_dagster', '0019_limits_of_trees'),
    ]

    operations = [
        migrations.AddField(
            model_name='processtreeschedule',
            name='name',
            field=models.CharField(db_default='default', default='default', help_text="What tells it from other schedules of the tree: a customer's name, say.", max_length=200, verbose_name='name'),
        ),
        migrations.AddField(
            model_name='processtreeschedule',
            name='dagster_name',
            field=models.CharField(editable=False, help_text='Set once, so a renamed schedule keeps its history and its switch there.', max_length=460, null=True, unique=True, verbose_name='name in Dagster'),
        ),
        migrations.RunPython(name_in_dagster, migrations.RunPython.noop),
        migrations.AlterModelOptions(
            name='processtreeschedule',
            options={'ordering': ['process_tree__name', 'name'], 'verbose_name': 'process tree schedule', 'verbose_name_plural': 'process tree schedules'},
        ),
        migrations.AlterField(
            model_name='processtreeschedule',
            name='process_tree',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='schedules', related_query_name='schedule', to='proctree_dagster.processtree', verbose_name='process tree'),
        ),
        migrations.AddConstraint(
            model_name='processtreeschedule',
            constraint=models.UniqueConstraint(fields=('process_tree', 'name'), name='proctree_schedule_name', violation_error_message='The process tree has a schedule of this name already.'),
        ),
        migrations.RunPython(migrations.RunPython.noop, refuse_several),  # first on the way back
    ]
