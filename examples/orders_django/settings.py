"""The settings of Django."""

import os

from sqlalchemy import make_url

DATABASE = make_url(os.environ["ORDERS_DATABASE_URL"])  # postgresql+psycopg://...
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": DATABASE.database,
        "USER": DATABASE.username,
        "PASSWORD": DATABASE.password,
        "HOST": DATABASE.host,
        "PORT": DATABASE.port,
    }
}
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["orders_django"]
ROOT_URLCONF = "orders_django.urls"
SECRET_KEY = os.environ.get("ORDERS_SECRET_KEY", "for an example")
USE_TZ = True
