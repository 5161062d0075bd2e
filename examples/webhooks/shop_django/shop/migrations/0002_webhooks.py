"""The tables of the inbox: what ``buttress webhooks schema`` prints, kept beside."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("0002_webhooks.sql").read_text(encoding="utf-8")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunSQL(SQL, migrations.RunSQL.noop)]
