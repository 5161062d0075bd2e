from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("Payment", [
            ("name", models.TextField(primary_key=True, serialize=False)),
            ("amount_minor", models.BigIntegerField()),
            ("currency", models.CharField(max_length=3)),
        ]),
        migrations.CreateModel("Order", [
            ("name", models.TextField(primary_key=True, serialize=False)),
            ("version", models.IntegerField()),
            ("status", models.TextField()),
        ]),
    ]
