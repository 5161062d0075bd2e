from django.db import models


class Payment(models.Model):
    name = models.TextField(primary_key=True)
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)


class Order(models.Model):
    name = models.TextField(primary_key=True)
    version = models.IntegerField()
    status = models.TextField()
