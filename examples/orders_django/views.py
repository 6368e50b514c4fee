"""What people ask for."""

import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from orders_django.contract import OrderPlaced
from orders_django.joining import add
from orders_django.models import Order
from orders_django.service import service


@require_POST
def place(request: HttpRequest) -> JsonResponse:
    item = json.loads(request.body)["item"]
    with transaction.atomic():
        order = Order.objects.create(id=service.new_id(), item=item)
        add(OrderPlaced(order.id, order.item))
    return JsonResponse({"id": order.id}, status=202)


@require_GET
def get_order(_: HttpRequest, order_id: str) -> JsonResponse:
    order = get_object_or_404(Order, id=order_id)
    return JsonResponse(
        {"id": order_id, "status": order.status, "cancellations": order.cancellations}
    )
