"""Numbers as a person reads them: few digits, a real minus sign, an error that says how many count."""

from __future__ import annotations

import math

MISSING = "–"
"""What stands for a number that is not known."""
PLAIN_EXPONENTS = range(-3, 5)
"""Powers of ten that are written out."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits.

    Example:
        >>> number(-0.048123), number(123456.0), number(None)
        ('−0.0481', '1.23 × 10⁵', '–')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    exponent = _exponent(float(f"{value:.{digits - 1}e}"))
    if exponent in PLAIN_EXPONENTS:
        return _sign(f"{value:.{max(digits - 1 - exponent, 0)}f}")
    return f"{_sign(f'{value / 10.0**exponent:.{digits - 1}f}')} × {_power(exponent)}"


def with_error(value: float | None, stderr: float | None) -> str:
    """Return a number and its standard error, two digits of the error deciding how many are shown.

    Example:
        >>> with_error(0.48123, 0.0123), with_error(1.234e-7, 2e-9), with_error(0.5, None)
        ('0.481 ± 0.012', '(1.234 ± 0.020) × 10⁻⁷', '0.500')
    """
    if value is None or stderr is None or not (math.isfinite(value) and math.isfinite(stderr)) or stderr <= 0:
        return number(value)
    exponent = _exponent(max(abs(value), stderr))
    scale = 0 if exponent in PLAIN_EXPONENTS else exponent
    decimals = max(scale + 1 - _exponent(stderr), 0)
    shown = (
        f"{_sign(f'{value / 10.0**scale:.{decimals}f}')} ± {_sign(f'{stderr / 10.0**scale:.{decimals}f}')}"
    )
    return f"({shown}) × {_power(scale)}" if scale else shown


def interval(ends: tuple[float | None, float | None] | None) -> str:
    """Return an interval, its width deciding how many digits are shown; an end that is not finite is not known.

    Example:
        >>> interval((0.4561, 0.5063)), interval((0.4561, None)), interval(None)
        ('0.456 to 0.506', 'from 0.456', '–')
    """
    low, high = (None if end is None or not math.isfinite(end) else end for end in ends or (None, None))
    if low is None or high is None:
        return (
            f"from {number(low)}"
            if high is None and low is not None
            else MISSING
            if high is None
            else f"up to {number(high)}"
        )
    width = high - low
    if not width > 0:
        return number(low, 6)
    largest = max(abs(low), abs(high))
    digits = min(max(_exponent(largest) - _exponent(width) + 2, 2), 15)
    exponent = _exponent(largest)
    if exponent in PLAIN_EXPONENTS:
        decimals = max(digits - 1 - exponent, 0)
        return f"{_sign(f'{low:.{decimals}f}')} to {_sign(f'{high:.{decimals}f}')}"
    return f"{number(low, digits)} to {number(high, digits)}"


def percent(share: float | None) -> str:
    """Return a probability as a person reads it, nothing for one that is not known.

    Example:
        >>> percent(0.0312), percent(0.99999), percent(None)
        ('3.1 %', '> 99.9 %', '')
    """
    if share is None:
        return ""
    if 0.0 < share < 1e-3:
        return "< 0.1 %"
    return (
        "> 99.9 %"
        if 0.999 < share < 1.0
        else f"{100.0 * share:.3g} %"
        if share > 0.1
        else f"{100.0 * share:.2g} %"
    )


def remark(fixed: bool = False, identifiable: bool = True, snapped: str | None = None) -> str:
    """Return what is to say of a number beside its value.

    Example:
        >>> remark(fixed=True), remark(identifiable=False), remark(snapped="1/2"), remark()
        ('fixed', 'not determined by the data', '≈ 1/2', '')
    """
    if fixed:
        return "fixed"
    if not identifiable:
        return "not determined by the data"
    return f"≈ {snapped}" if snapped else ""


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _power(exponent: int) -> str:
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def _sign(text: str) -> str:
    return text.replace("-", "−")
