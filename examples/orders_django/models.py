"""The orders."""

from django.db import models


class Order(models.Model):
    id = models.CharField(primary_key=True, max_length=36)
    item = models.CharField(max_length=100)
    status = models.CharField(max_length=20, default="placed")
    cancellations = models.IntegerField(default=0)
