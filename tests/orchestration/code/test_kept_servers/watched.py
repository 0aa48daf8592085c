def work(amount: int = 1) -> None:
    pass
