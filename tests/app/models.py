"""Rows that a context may hold: one kind for each sort of primary key."""

import uuid
from typing import ClassVar

from django.db import models


class Organisation(models.Model):
    """A row with an ordinary number as its key."""

    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Document(models.Model):
    """A row with a UUID as its key."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    title = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.title


class Holding(models.Model):
    """A row with a composite key: an owner and a day."""

    pk = models.CompositePrimaryKey("owner", "day")
    owner = models.CharField(max_length=50)
    day = models.DateField()

    def __str__(self) -> str:
        return f"{self.owner} on {self.day}"


class OpenManager(models.Manager["Ticket"]):
    """Hides what is closed, as a default manager may."""

    def get_queryset(self) -> models.QuerySet["Ticket"]:
        """Return the open ones."""
        return super().get_queryset().filter(closed=False)


class Ticket(models.Model):
    """A row that its default manager hides once it is closed."""

    closed = models.BooleanField(default=False)

    objects: ClassVar[OpenManager] = OpenManager()

    def __str__(self) -> str:
        return f"Ticket {self.pk}"


class Customer(models.Model):
    """A row that holds a secret beside what is none."""

    organisation = models.ForeignKey(
        Organisation, on_delete=models.CASCADE, related_name="customers"
    )
    account_manager = models.ForeignKey("auth.User", on_delete=models.SET_NULL, null=True)
    name = models.CharField(max_length=100)
    api_key = models.CharField(max_length=100)
    password_changed_at = models.DateTimeField(null=True)
    settings = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.name


class AccessToken(models.Model):
    """A row that is a secret, its key included."""

    key = models.CharField(max_length=100, primary_key=True)
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="access")

    def __str__(self) -> str:
        return self.key


class Call(models.Model):
    """A row that refers to a secret by its key."""

    made_with = models.ForeignKey(AccessToken, on_delete=models.CASCADE, related_name="calls")

    def __str__(self) -> str:
        return f"Call {self.pk}"
