"""The URLs of the site."""

from django.urls import path

from mysite import views

urlpatterns = [
    path("", views.index),
    path("ticks/", views.ticks),
    path("chat/<slug:room>/", views.chat),
]
