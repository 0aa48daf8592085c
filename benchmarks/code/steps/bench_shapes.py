import os

LENGTH = int(os.environ["BENCH_LENGTH"])
WIDTH = int(os.environ["BENCH_WIDTH"])


def chain(add):
    add("step_0", "begin", [])
    for number in range(1, LENGTH):
        function = "step" if number < LENGTH - 1 else "end"
        add(f"step_{number}", function, [f"step_{number - 1}"])


def fan(add):
    add("first", "begin_slowly", [])
    for number in range(WIDTH):
        add(f"middle_{number}", "sleep", ["first"])
    add("last", "end_slowly", [f"middle_{number}" for number in range(WIDTH)])
