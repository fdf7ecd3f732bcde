//! What was probably meant: a key, a unit, a truth value.
//!
//! Pure. Used for advice only; nothing is ever taken for what it resembles.

/// The known name that was probably meant by `written`.
pub(super) fn similar<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let bare = |text: &str| -> String {
        let letters = text.chars().filter(|c| c.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect()
    };
    let wanted = bare(written);
    let distance_max = (wanted.chars().count() / 3).clamp(1, 3);
    known
        .map(|name| (strsim::damerau_levenshtein(&wanted, &bare(name)), name))
        .filter(|(distance, name)| *distance <= distance_max && *distance < bare(name).len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name.to_owned())
}

/// `64mb` → `64MB`, `64K` → `64KiB`, `5sec` → `5s`.
pub(super) fn with_known_unit(text: &str, format: &str) -> Option<String> {
    const SIZES: &[(&str, &str)] = &[
        ("k", "KiB"),
        ("kb", "kB"),
        ("ki", "KiB"),
        ("kib", "KiB"),
        ("m", "MiB"),
        ("mb", "MB"),
        ("mi", "MiB"),
        ("mib", "MiB"),
        ("g", "GiB"),
        ("gb", "GB"),
        ("gi", "GiB"),
        ("gib", "GiB"),
        ("bytes", "B"),
    ];
    const TIMES: &[(&str, &str)] = &[
        ("msec", "ms"),
        ("millis", "ms"),
        ("milliseconds", "ms"),
        ("µs", "us"),
        ("sec", "s"),
        ("secs", "s"),
        ("second", "s"),
        ("seconds", "s"),
        ("min", "m"),
        ("mins", "m"),
        ("minute", "m"),
        ("minutes", "m"),
        ("hour", "h"),
        ("hours", "h"),
        ("day", "d"),
        ("days", "d"),
    ];
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(split);
    number.parse::<f64>().ok()?;
    let unit = unit.trim().to_lowercase();
    let units = match format {
        "byte-size" => SIZES,
        "duration-with-unit" => TIMES,
        _ => return None,
    };
    let (_, meant) = units.iter().find(|(written, _)| *written == unit)?;
    Some(format!("{number}{meant}"))
}

/// `yes` → true, `off` → false: what YAML 1.1 had and 1.2 has not.
pub(super) fn yes_or_no(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "yes" | "on" | "y" | "true" => Some(true),
        "no" | "off" | "n" | "false" => Some(false),
        _ => None,
    }
}
