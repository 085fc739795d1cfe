//! Quantities (resource.Quantity): parsing, comparing, canonical form.

use std::fmt;

pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A number of billionths: exact for every quantity that Kubernetes takes (which rounds up to a billionth).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(pub i128);

const UNIT: i128 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct BadQuantity;

impl Amount {
    /// Whole units, rounded up: bytes of memory, whole cores.
    pub fn value(self) -> i64 {
        i64::try_from(self.0.div_euclid(UNIT) + i128::from(self.0.rem_euclid(UNIT) != 0)).unwrap_or(i64::MAX)
    }
    /// Thousandths, rounded up: millicores.
    pub fn milli(self) -> i64 {
        let step = UNIT / 1000;
        i64::try_from(self.0.div_euclid(step) + i128::from(self.0.rem_euclid(step) != 0)).unwrap_or(i64::MAX)
    }
    pub fn from_value(value: i64) -> Self {
        Self(i128::from(value) * UNIT)
    }
    pub fn from_milli(milli: i64) -> Self {
        Self(i128::from(milli) * (UNIT / 1000))
    }
}

impl std::ops::Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Amount {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Amount {
    /// Canonical decimal form: `1`, `250m`, `3k`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (scale, suffix) in [(1, "n"), (1_000, "u"), (1_000_000, "m")] {
            if self.0 % (scale * 1000) != 0 {
                return write!(f, "{}{suffix}", self.0 / scale);
            }
        }
        let (mut n, mut suffix) = (self.0 / UNIT, "");
        for next in ["k", "M", "G", "T", "P", "E"] {
            if n == 0 || n % 1000 != 0 {
                break;
            }
            (n, suffix) = (n / 1000, next);
        }
        write!(f, "{n}{suffix}")
    }
}

/// Parses a quantity: decimal number, then a binary (`Ki`…), decimal (`n`, `u`, `m`, `k`…) or exponent (`e3`) suffix.
///
/// # Errors
/// The text is no quantity.
pub fn parse(text: &str) -> Result<Amount, BadQuantity> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, digits) = match number.as_bytes().first() {
        Some(b'-') => (true, &number[1..]),
        Some(b'+') => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) || digits.len() > 40 {
        return Err(BadQuantity);
    }
    let (multiplier, divisor) = scale(suffix).ok_or(BadQuantity)?;
    // value = whole.fraction × multiplier / divisor, in billionths, rounded away from zero.
    let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| BadQuantity)?;
    let below = 10i128.checked_pow(u32::try_from(fraction.len()).map_err(|_| BadQuantity)?).ok_or(BadQuantity)?;
    let above = mantissa.checked_mul(multiplier).and_then(|n| n.checked_mul(UNIT));
    let cap = i128::from(i64::MAX) * UNIT;
    let amount = match (above, below.checked_mul(divisor)) {
        (Some(n), Some(d)) => (n / d + i128::from(n % d != 0)).min(cap),
        _ => cap,
    };
    Ok(Amount(if negative { -amount } else { amount }))
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(power) = DECIMAL.iter().position(|s| *s == suffix) {
        return Some((1000i128.pow(power as u32), 1));
    }
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Some((1024i128.pow(power as u32), 1));
    }
    match suffix {
        "m" => return Some((1, 1_000)),
        "u" => return Some((1, 1_000_000)),
        "n" => return Some((1, 1_000_000_000)),
        _ => {}
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10i128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

/// The form that Kubernetes gives a quantity back in: `0.5` is `500m`, `1024Mi` is `1Gi`, `2000m` is `2`.
///
/// # Errors
/// The text is no quantity.
pub fn canonical(text: &str) -> Result<String, BadQuantity> {
    let amount = parse(text)?;
    Ok(match text.trim_start_matches(|c: char| matches!(c, '0'..='9' | '.' | '+' | '-')) {
        suffix if suffix.len() == 2 && suffix.ends_with('i') => binary(amount),
        suffix if suffix.len() > 1 => exponential(amount),
        _ => amount.to_string(),
    })
}

/// Binary form if that is exact and the amount has a Ki, else decimal.
fn binary(amount: Amount) -> String {
    let mut n = amount.0 / UNIT;
    if amount.0 % UNIT != 0 || n.abs() < 1024 {
        return amount.to_string();
    }
    let mut suffix = "";
    for next in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
        if n % 1024 != 0 {
            break;
        }
        (n, suffix) = (n / 1024, next);
    }
    format!("{n}{suffix}")
}

/// Exponent form, with exponents that are multiples of three.
fn exponential(amount: Amount) -> String {
    let (mut n, mut exponent) = (amount.0, -9);
    while n != 0 && n % 1000 == 0 && exponent < 18 {
        (n, exponent) = (n / 1000, exponent + 3);
    }
    if n == 0 || exponent == 0 { n.to_string() } else { format!("{n}e{exponent}") }
}

/// A resource's amount, zero if it is absent or malformed (validation keeps malformed ones out of the store).
pub fn amount(quantity: Option<&Quantity>) -> Amount {
    quantity.and_then(|q| parse(&q.0).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_parse_to_exact_amounts() {
        for (text, milli) in [
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            ("1Ki", 1_024_000),
            ("1k", 1_000_000),
            ("2e3", 2_000_000),
            ("0", 0),
            ("-1", -1000),
            (".5", 500),
            ("1u", 1),
            ("5.", 5000),
        ] {
            assert_eq!(parse(text).unwrap().milli(), milli, "{text}");
        }
        assert_eq!(parse("1.5Gi").unwrap().value(), 3 << 29);
        for bad in ["", "m", "1x", "1.2.3", "--1", "1 ", "Ki", "1e", "1mi", "e3"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn amounts_print_in_canonical_form() {
        for (text, out) in [("1000m", "1"), ("250m", "250m"), ("3000", "3k"), ("0", "0"), ("1.5", "1500m"), ("1Ki", "1024"), ("5n", "5n")] {
            assert_eq!(parse(text).unwrap().to_string(), out);
        }
    }

    #[test]
    fn canonical_form_keeps_the_format() {
        for (text, out) in [
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1.5Gi", "1536Mi"),
            ("2000m", "2"),
            ("5e3", "5e3"),
            ("5000e0", "5e3"),
            ("1M", "1M"),
            ("1000k", "1M"),
            ("1E", "1E"),
            ("-1Ki", "-1Ki"),
        ] {
            assert_eq!(canonical(text).unwrap(), out, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn canonical_form_is_stable_and_equal(text in "[0-9]{1,6}(\\.[0-9]{1,3})?(|m|k|M|Ki|Mi|Gi|e3|e-2)") {
            let once = canonical(&text).unwrap();
            proptest::prop_assert_eq!(parse(&once), parse(&text));
            proptest::prop_assert_eq!(canonical(&once).unwrap(), once);
        }

        #[test]
        fn parsing_never_panics(text in "[-+0-9.eEinumkKMGTPi]{0,40}") {
            if let Ok(a) = parse(&text) {
                proptest::prop_assert!(Amount::from_milli(a.milli()) >= a || a.milli() == i64::MAX);
            }
        }
    }
}
