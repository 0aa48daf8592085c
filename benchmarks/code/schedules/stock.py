import os

from dagster import DefaultScheduleStatus, Definitions, ScheduleDefinition, job, op

CRON = os.environ["BENCH_CRON"]
COUNT = int(os.environ["BENCH_COUNT"])


@op
def only():
    return 1


def make(number):
    @job(name=f"job_{number}")
    def made():
        only()

    return ScheduleDefinition(
        job=made,
        cron_schedule=CRON,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
    )


schedules = [make(number) for number in range(COUNT)]
defs = Definitions(schedules=schedules, jobs=[schedule.job for schedule in schedules])
