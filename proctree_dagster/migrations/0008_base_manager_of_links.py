from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("proctree_dagster", "0007_family_of_a_run"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="treelink",
            options={
                "base_manager_name": "plain",
                "ordering": ["pk"],
                "verbose_name": "link between trees",
                "verbose_name_plural": "links between trees",
            },
        ),
        migrations.AlterModelManagers(
            name="treelink",
            managers=[
                ("objects", models.Manager()),
                ("plain", models.Manager()),
            ],
        ),
    ]
