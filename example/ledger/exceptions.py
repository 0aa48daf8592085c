"""What can go wrong in the ledger, said so that a bookkeeper can put it right."""


class LedgerError(Exception):
    """The ledger can't do what it was asked; the message says why and what to do."""
