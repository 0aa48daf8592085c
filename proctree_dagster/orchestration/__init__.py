"""The only folder that imports dagster."""
