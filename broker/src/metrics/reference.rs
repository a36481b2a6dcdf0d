//! The table of metrics as a page, for the documentation.
use super::{
    model::{Kind, Metric},
    table::CHAPTERS,
};
use std::fmt::Write;

const INTRODUCTION: [&str; 3] = [
    "`health_listener` serves these at `/metrics`, in Prometheus' text format. With OTLP \
     (`OTEL_EXPORTER_OTLP_ENDPOINT`) they have the same names; what concerns the health listener itself is not sent.",
    "Counters begin at 0 with each start of the process. A histogram `NAME` has the series `NAME_bucket`, `NAME_sum` \
     and `NAME_count`. How many samples there are depends on listeners, members and bridges, never on clients or topics.",
    "A metric without a sample is left out: those of bridges and certificates where there are none, those of links on \
     a node alone, the lag of members except at the leader, and all that the broker knows while it is still starting.",
];

/// `docs/metrics.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("# Metrics reference\n\n");
    text.push_str("Made from the table of metrics by `mosquorum --metrics=markdown`; a test keeps it up to date.\n");
    for paragraph in INTRODUCTION {
        let _ = write!(text, "\n{paragraph}\n");
    }
    for (heading, rows) in CHAPTERS {
        let _ = write!(text, "\n## {heading}\n\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
        rows.iter().for_each(|metric| row(metric, &mut text));
    }
    text
}

fn row(Metric { name, kind, unit, labels, help }: &Metric, text: &mut String) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let labels: Vec<String> = labels.iter().map(|(label, values)| format!("`{label}`: {values}")).collect();
    let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {} | {help} |", labels.join("; "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_repository_is_that_of_the_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let written = std::fs::read_to_string(page).unwrap_or_default();
        assert!(written == markdown(), "run `mosquorum --metrics=markdown > docs/metrics.md`");
    }
}
