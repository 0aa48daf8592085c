import django

django.setup()

from bench_client import serve
from django_q.tasks import async_chain


def launch(token):
    async_chain(
        [
            ("bench_functions.first", (token,)),
            ("bench_functions.second", (1,)),
            ("bench_functions.third", (2,)),
            ("bench_functions.last", (token, 3)),
        ]
    )


serve(launch)
