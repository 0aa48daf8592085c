import datetime as dt
import decimal
import uuid

from e2e_app import processes

from example.ledger.models import Organisation
from proctree_dagster.tree_builder import ProcessTreeInstance

context = {
    "organisation": Organisation.objects.get(name="Harbour Lane Design"),
    "organisations": list(Organisation.objects.all()),
    "date": dt.date(2026, 1, 1),
    "time": dt.time(7, 30),
    "moment": dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC),
    "naive": dt.datetime(2026, 1, 2, 3, 4),
    "amount": decimal.Decimal("1.50"),
    "uuid": uuid.UUID(int=5),
    "nested": {"list": [1, 2.5, [], {"dates": [dt.date(2026, 2, 3), "x"]}], "": {"1": 2}},
    "like_a_date": "2026-01-01",
    "like_a_time": "12:30:00",
    "like_a_number": "123",
    "like_a_float": "1e3",
    "like_an_octal_number": "0o17",
    "like_a_boolean": "yes",
    "like_nothing": "null",
    "like_a_comment": "# a: b",
    "like_an_alias": "*a",
    "like_a_flow": "{a: [b]}",
    "like_a_variable": "$HOME ${HOME}",
    "empty": "",
    "blank": " ",
    "padded": "  a  ",
    "lines": "first\nsecond\n\n  indented\n",
    "other_ends": "a\r\nb\tc",
    "long": "word " * 60,
    "quotes": "'\"\\",
    "unicode": "Grüße, 世界 🎉 \u2028 \u00a0 \ufeff \x07",
    "keys": {"yes": 1, "2026-01-01": 2, "123": 3, "null": 4, "a: b": 5, "<<": 6, "ü": 7},
    "beyond_double": 2**53 + 1,
    "huge": -(10**60),
    "whole_float": 2.0,
    "large_float": 1e300,
    "true": True,
    "zero": 0,
}
tree = ProcessTreeInstance("write_down").add_process("write_down", func=processes.write_down)
tree.save()
tree.register_schedule(enabled=False, context=context)
tree.create_command()
