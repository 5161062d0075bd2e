from django.urls import path

from shop import views

urlpatterns = [path("webhooks", views.webhooks), path("healthz", views.healthz)]
