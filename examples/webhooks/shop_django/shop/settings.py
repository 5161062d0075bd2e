"""Configured by the environment: DATABASE_URL, SECRET_KEY, WEBHOOK_SECRET, ORDERS_URL, EMAILS_URL, CREDITS_URL, EFFECT_LEASE_S."""

import os

from psycopg.conninfo import conninfo_to_dict

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "127.0.0.1,localhost").split(",")
DATABASE_URL = os.environ["DATABASE_URL"]
_database = conninfo_to_dict(DATABASE_URL)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.get("dbname"), "USER": _database.get("user"), "PASSWORD": _database.get("password"),
        "HOST": _database.get("host"), "PORT": _database.get("port"),
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "shop.urls"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1 << 20
USE_TZ = True

WEBHOOK_SECRET = os.environ["WEBHOOK_SECRET"]
CALLEES = {name: os.environ[f"{name.upper()}_URL"] for name in ("orders", "emails", "credits")}
EFFECT_LEASE_S = float(os.environ.get("EFFECT_LEASE_S", "60"))
