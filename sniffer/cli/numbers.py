"""Numbers as people read them: three digits and a prefix."""

_PREFIXES = ("", "k", "M", "G", "T", "P")


def short(value: float, unit: str = "") -> str:
    """`0`, `7`, `0.4`, `999`, `1.23k`, `45.6M`; with a unit `1.23 kbit/s`."""
    step = 0
    while value >= 999.5 and step < len(_PREFIXES) - 1:
        value, step = value / 1000, step + 1
    if step == 0:
        text = f"{value:.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"
    else:
        text = f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
    return f"{text} {_PREFIXES[step]}{unit}" if unit else f"{text}{_PREFIXES[step]}"
