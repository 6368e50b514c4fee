"""Orders in Django: `django-admin migrate --settings orders_django.settings`, and then
`gunicorn --config python:orders_django.gunicorn_hooks orders_django.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_django.settings")
django = get_wsgi_application()

from orders_django.service import service  # noqa: E402 - Django's settings come first

application = service.wsgi(django)
