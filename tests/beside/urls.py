"""A site that runs trees."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path

from proctree_dagster.tree_builder import ProcessTreeManager


def close(request: HttpRequest) -> HttpResponse:
    return HttpResponse(ProcessTreeManager.submit_tree("close").run_id)


urlpatterns = [path("admin/", admin.site.urls), path("close/", close)]
