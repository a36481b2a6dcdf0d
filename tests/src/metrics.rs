//! A strict reader of Prometheus' text format: what is not well-formed is an error.
use std::collections::{BTreeMap, BTreeSet};

/// All samples of one scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Kind by name.
    pub families: BTreeMap<String, String>,
    /// Value by name and labels, as written, labels sorted.
    samples: BTreeMap<(String, Vec<(String, String)>), f64>,
}

impl Scrape {
    /// # Errors
    /// The first line that is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut scrape = Self::default();
        let mut helped = BTreeSet::new();
        let mut current = String::new();
        for line in text.lines() {
            let wrong = |why: &str| format!("{why}: {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
                if help.is_empty() || !helped.insert(name.to_owned()) {
                    return Err(wrong("empty or second help"));
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
                if !is_name(name) || !helped.contains(name) || scrape.families.contains_key(name) {
                    return Err(wrong("bad name, no help, or a second type"));
                }
                if !matches!(kind, "counter" | "gauge" | "histogram") || (kind == "counter") != name.ends_with("_total")
                {
                    return Err(wrong("the name does not fit the type"));
                }
                scrape.families.insert(name.to_owned(), kind.to_owned());
                current = name.to_owned();
            } else {
                let (name, labels, value) = sample(line).ok_or_else(|| wrong("no sample"))?;
                let histogram = scrape.families.get(&current).is_some_and(|kind| kind == "histogram");
                let suffix = name.strip_prefix(current.as_str());
                let fits = match suffix {
                    Some("") => !histogram,
                    Some("_bucket" | "_sum" | "_count") => histogram,
                    _ => false,
                };
                if current.is_empty() || !fits {
                    return Err(wrong("a sample outside its family"));
                }
                if scrape.samples.insert((name, labels), value).is_some() {
                    return Err(wrong("a sample twice"));
                }
            }
        }
        scrape.check_histograms()?;
        Ok(scrape)
    }

    /// Buckets grow up to the count.
    fn check_histograms(&self) -> Result<(), String> {
        for (name, _) in self.families.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut buckets: Vec<(f64, f64)> = Vec::new();
            for ((sample, labels), value) in &self.samples {
                if *sample == format!("{name}_bucket") {
                    let bound = labels.iter().find(|(label, _)| label == "le").map(|(_, bound)| bound.as_str());
                    let bound = bound.and_then(|bound| bound.replace("+Inf", "inf").parse().ok());
                    buckets.push((bound.ok_or_else(|| format!("{name}: a bucket without bound"))?, *value));
                }
            }
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let grows = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
            let last = buckets.last().filter(|last| last.0.is_infinite()).map(|last| last.1);
            if !grows || last.is_none() || last != self.get(&format!("{name}_count"), &[]) {
                return Err(format!("{name}: buckets {buckets:?} do not add up"));
            }
        }
        Ok(())
    }

    /// The value of a sample with exactly these labels.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut labels: Vec<_> = labels.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        labels.sort();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// The labels that the samples of a family have, `le` of a histogram left out.
    #[must_use]
    pub fn labels(&self, family: &str) -> BTreeSet<&str> {
        let histogram = self.families.get(family).is_some_and(|kind| kind == "histogram");
        let own = |name: &str| if histogram { name.strip_suffix("_count") == Some(family) } else { name == family };
        let samples = self.samples.keys().filter(|(name, _)| own(name));
        samples.flat_map(|(_, labels)| labels.iter().map(|(label, _)| label.as_str())).collect()
    }

    /// The sum over all samples of a name.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|((sample, _), _)| sample == name).map(|(_, value)| value).sum()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

type Parts = (String, Vec<(String, String)>, f64);

fn sample(line: &str) -> Option<Parts> {
    let (front, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = front.split_once('{') else {
        return is_name(front).then(|| (front.to_owned(), Vec::new(), value));
    };
    let mut labels = Vec::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"")?;
        let (text, length) = quoted_text(quoted)?;
        if !is_name(label) || labels.iter().any(|(known, _)| known == label) {
            return None;
        }
        labels.push((label.to_owned(), text));
        rest = &quoted[length..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?;
        }
    }
    labels.sort();
    is_name(name).then(|| (name.to_owned(), labels, value))
}

/// Text up to the closing quote, and how many bytes that took.
fn quoted_text(quoted: &str) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, at + 1)),
            '\\' => text.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => text.push(c),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_text_is_read() {
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\\\"2\",b=\"c\"} 3\n# HELP h H.\n# TYPE h histogram\n\
            h_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.5\nh_count 2\n";
        let scrape = Scrape::parse(text).expect("good");
        assert_eq!(scrape.get("a_total", &[("b", "c"), ("x", "1\"2")]), Some(3.0));
        assert_eq!(scrape.get("h_sum", &[]), Some(0.5));
        assert_eq!(scrape.len(), 5);
    }

    #[test]
    fn bad_texts_are_refused() {
        let head = "# HELP a A.\n# TYPE a gauge\n";
        for bad in [
            "a 1\n".to_owned(),
            "# TYPE a gauge\na 1\n".to_owned(),
            format!("{head}a 1\na 2\n"),
            format!("{head}a{{x=\"1}} 1\n"),
            format!("{head}a{{x=\"1\",x=\"2\"}} 1\n"),
            format!("{head}b 1\n"),
            format!("{head}a one\n"),
            format!("{head}{head}"),
            "# HELP a A.\n# TYPE a counter\na 1\n".to_owned(),
            "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.5\nh_count 3\n".to_owned(),
        ] {
            assert!(Scrape::parse(&bad).is_err(), "{bad}");
        }
    }
}
