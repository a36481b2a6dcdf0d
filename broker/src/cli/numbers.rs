//! Numbers among the words of a command.
//! Always true: an error says what was written and what is expected; who prints it says where.
use std::time::Duration;

/// A number within these bounds.
pub fn from_to<T: TryFrom<u64>>(min: u64, max: u64) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("'{text}' is not a number from {min} to {max}"))
    }
}

/// Whole seconds, at most so many.
pub fn seconds_to(max: u32) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let seconds = text.parse::<u32>().ok().filter(|seconds| *seconds <= max);
        let seconds = seconds.ok_or_else(|| format!("'{text}' is not a number of seconds from 0 to {max}"))?;
        Ok(Duration::from_secs(seconds.into()))
    }
}

/// Seconds that may have a fraction.
/// # Errors
/// When it is no such number.
pub fn fractional_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.0..=1e6).contains(seconds));
    let seconds = seconds.ok_or_else(|| format!("'{text}' is not a number of seconds from 0 to 1000000"))?;
    Ok(Duration::from_secs_f64(seconds))
}
