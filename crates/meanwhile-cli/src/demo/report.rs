//! The large result of the demo: the log of a warehouse's night shift. Made up, and the same every time.

use std::fmt::Write;

const LINES: usize = 3100;
const FIRST_SECOND: usize = 21 * 3600;
const SECONDS_A_LINE: usize = 9;

/// What the night's few troubles were, and in which line.
const TROUBLES: [(usize, &str); 4] = [
    (688, "WARN  cold-store-2 door open for 11 min, now at 6.8 °C"),
    (1204, "WARN  belt-7       motor current 31 % too high"),
    (1391, "ERROR belt-7       motor too hot, stopped; see belt-8"),
    (2246, "WARN  scanner-14   9 of 100 labels could not be read"),
];

/// Some 200 KB of text, one line after another.
pub(super) fn report() -> String {
    let mut text = String::with_capacity(LINES * 80);
    for number in 1..=LINES {
        let time = FIRST_SECOND + number * SECONDS_A_LINE;
        let (hour, minute, second) = (time / 3600 % 24, time / 60 % 60, time % 60);
        let _ = write!(text, "#{number:04} {hour:02}:{minute:02}:{second:02} ");
        match TROUBLES.iter().find(|(line, _)| *line == number) {
            Some((_, trouble)) => text.push_str(trouble),
            None => text.push_str(&routine(number)),
        }
        text.push('\n');
    }
    text
}

/// What goes on all night.
fn routine(number: usize) -> String {
    let parcel = 480_000 + number * 7919 % 100_000;
    let place = 1 + number * 31 % 40;
    let grams = 150 + number * 613 % 9800;
    match number % 4 {
        0 => format!("INFO  intake-{:<5} parcel {parcel} taken in, {grams} g", 1 + place % 4),
        1 => format!("INFO  belt-{:<7} parcel {parcel} to rack {place}", 1 + place % 9),
        2 => format!("INFO  scanner-{:<4} parcel {parcel} read, label is good", 1 + place % 20),
        _ => format!("INFO  picker-{:<5} parcel {parcel} picked from rack {place}", 1 + place % 12),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_large_and_has_something_worth_finding() {
        let text = report();
        assert!((150_000..250_000).contains(&text.len()), "{} bytes", text.len());
        assert_eq!(text.lines().count(), LINES);
        assert_eq!(text.lines().filter(|line| line.contains("WARN")).count(), 3);
    }
}
