"""What the losses ask of an option that is a word."""


def known(name: str, value: str, words: tuple[str, ...]) -> None:
    """Refuse a value that is none of the words, with a ValueError that lists them."""
    if value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")
