"""The URLs of the site."""

from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(url="/chat/")),
    path("chat/", include("chat.urls")),
]
