//! Simulated electricity meters of households: what the power usage example and its test publish.
//! Always true: a reading depends on household and second alone, so both ends can compute it.
use crate::client::message;
use mosquorum_proto::mqtt::{Publish, QoS};

/// Watts that a household draws: a base load, a morning and an evening peak, a fridge and a kettle.
#[must_use]
pub fn watts(household: u32, second: u64) -> u32 {
    let of_day = second % 86_400;
    let hour = of_day as f64 / 3600.0;
    let peak = |at: f64, width: f64, height: f64| height * (-((hour - at) / width).powi(2)).exp();
    let base = 80.0 + f64::from(household % 7) * 15.0;
    let shift = f64::from(household % 5) * 0.3;
    let fridge = if (of_day + u64::from(household) * 97) % 1800 < 600 { 90.0 } else { 0.0 };
    let kettle = if (of_day + u64::from(household) * 613) % 14_400 < 180 { 2000.0 } else { 0.0 };
    let load = base + peak(7.0 + shift, 1.0, 900.0) + peak(19.5 + shift, 1.8, 1600.0) + fridge + kettle;
    load.round() as u32
}

/// The reading of one second, which the site shares.
#[must_use]
pub fn reading(household: u32, second: u64) -> Publish {
    let text = format!("{{\"second\":{second},\"watts\":{}}}", watts(household, second));
    Publish { retain: true, ..message(&format!("power/household-{household}/usage"), text, QoS::AtLeastOnce) }
}

/// What the site keeps for itself.
#[must_use]
pub fn private(household: u32, second: u64) -> Publish {
    let at_home = if watts(household, second) > 300 { "yes" } else { "no" };
    message(&format!("private/household-{household}/at-home"), at_home, QoS::AtLeastOnce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn households_draw_little_at_night_and_much_in_the_evening() {
        for household in 0..20 {
            let mean = |hour: u64| (0..3600).map(|s| u64::from(watts(household, hour * 3600 + s))).sum::<u64>() / 3600;
            assert!(mean(3) < mean(20), "household {household}: {} and {} W", mean(3), mean(20));
        }
    }
}
