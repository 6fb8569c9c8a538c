"""What a user can cause: one line that says what was expected, what came and what to do."""


class UserError(ValueError):
    """Programs print the message alone and exit with status 2."""
