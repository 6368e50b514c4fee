"""The addresses of the application."""

from django.urls import path

from orders_django.views import get_order, place

urlpatterns = [path("orders", place), path("orders/<order_id>", get_order)]
