//! Which line decides about a name: a tree of the lines' filters, by level.
//! Always true: the answer is the first line, in the order of the file, whose filter matches; a search goes only where a
//! line may match and an earlier one has not been found, whatever the number of lines.
use mosquorum_proto::mqtt::{TopicFilter, TopicName};
use std::{collections::BTreeMap, str::Split};

/// Filters, each with the number of its line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicIndex {
    root: Node,
}

/// What follows one level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    names: BTreeMap<Box<str>, Node>,
    /// `+`.
    any: Option<Box<Node>>,
    /// The first line whose filter ends here.
    here: Option<usize>,
    /// The first line that goes on with `#`.
    rest: Option<usize>,
    /// The first line in here or below.
    first: Option<usize>,
}

impl TopicIndex {
    pub(crate) fn new<'a>(lines: impl Iterator<Item = (usize, &'a TopicFilter)>) -> Self {
        let mut index = Self::default();
        for (line, filter) in lines {
            index.root.insert(filter.matched_part(), line);
        }
        index
    }

    /// The number of the line that decides.
    pub(crate) fn find(&self, name: &TopicName) -> Option<usize> {
        self.search(name, &mut || {})
    }

    /// `visit` is called for each place that is looked at.
    fn search(&self, name: &TopicName, visit: &mut impl FnMut()) -> Option<usize> {
        let mut levels = name.as_str().split('/');
        if !name.as_str().starts_with('$') {
            return self.root.search(levels, None, visit);
        }
        // Wildcards do not stand for a first level that begins so [MQTT-4.7.2-1].
        visit();
        self.root.names.get(levels.next()?)?.search(levels, None, visit)
    }
}

impl Node {
    fn insert(&mut self, filter: &str, line: usize) {
        let mut node = self;
        node.first = earlier(node.first, Some(line));
        for level in filter.split('/') {
            node = match level {
                "#" => {
                    node.rest = earlier(node.rest, Some(line));
                    return;
                }
                "+" => node.any.get_or_insert_default(),
                name => node.names.entry(name.into()).or_default(),
            };
            node.first = earlier(node.first, Some(line));
        }
        node.here = earlier(node.here, Some(line));
    }

    /// The earlier of `best` and what is found here. As deep as the filters are, which have at most 201 levels.
    fn search(&self, mut levels: Split<'_, char>, best: Option<usize>, visit: &mut impl FnMut()) -> Option<usize> {
        visit();
        if best.is_some() && earlier(best, self.first) == best {
            return best;
        }
        let mut best = earlier(best, self.rest);
        let Some(level) = levels.next() else { return earlier(best, self.here) };
        if let Some(named) = self.names.get(level) {
            best = named.search(levels.clone(), best, visit);
        }
        match &self.any {
            Some(any) => any.search(levels, best, visit),
            None => best,
        }
    }
}

fn earlier(one: Option<usize>, other: Option<usize>) -> Option<usize> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Direction, Topic, Topics};

    /// splitmix64.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
        }
        fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
            all[self.below(all.len())]
        }
        fn levels(&mut self, of: &[&str]) -> String {
            let levels: Vec<&str> = (0..=self.below(4)).map(|_| self.one_of(of)).collect();
            levels.join("/")
        }
        /// A filter, possibly shared, `$`-led or with empty levels.
        fn pattern(&mut self) -> String {
            let mut text = self.one_of(&["", "", "", "$SYS/", "$share/g/"]).to_owned();
            text += &self.levels(&["a", "b", "", "+", "+", "c"]);
            text += self.one_of(&["", "", "/#"]);
            if self.below(40) == 0 { "#".to_owned() } else { text }
        }
        fn line(&mut self) -> Topic {
            loop {
                let pattern = self.pattern();
                let direction = self.one_of(&["in", "out", "both"]);
                let (local, remote) = (self.one_of(&["\"\"", "l/", "a/"]), self.one_of(&["\"\"", "r/", "b/", "$SYS/"]));
                if let Ok(topic) = Topic::parse(&format!("\"{pattern}\" {direction} 0 {local} {remote}")) {
                    return topic;
                }
            }
        }
        fn name(&mut self) -> TopicName {
            loop {
                let text =
                    self.one_of(&["", "", "l/", "r/", "$SYS/"]).to_owned() + &self.levels(&["a", "b", "", "c", "d"]);
                if let Ok(name) = TopicName::try_from(&text[..]) {
                    return name;
                }
            }
        }
    }

    type Filter = fn(&Topic) -> &TopicFilter;

    /// The first of all lines, one by one.
    fn one_by_one<'a>(
        topics: &'a Topics,
        wanted: fn(Direction) -> bool,
        filter: Filter,
        name: &TopicName,
    ) -> Option<&'a Topic> {
        topics.lines().iter().find(|line| wanted(line.direction) && filter(line).matches(name))
    }

    fn mapped(name: &TopicName, line: Option<&Topic>, to_remote: bool) -> Option<String> {
        let Some(line) = line else { return Some(name.as_str().to_owned()) };
        let (from, to) = match to_remote {
            true => (&line.local_prefix, &line.remote_prefix),
            false => (&line.remote_prefix, &line.local_prefix),
        };
        let text = match from.is_empty() && to.is_empty() {
            true => name.as_str().to_owned(),
            false => format!("{to}{}", name.as_str().strip_prefix(&from[..]).unwrap_or(name.as_str())),
        };
        TopicName::try_from(&text[..]).ok().map(|name| name.as_str().to_owned())
    }

    #[test]
    fn the_line_that_decides_and_the_name_on_the_other_side_are_those_of_a_search_line_by_line() {
        let mut found = 0;
        for seed in 0..300 {
            let mut numbers = Numbers(seed);
            let count = 1 + numbers.below(40);
            let topics = Topics::new((0..count).map(|_| numbers.line()).collect());
            for _ in 0..60 {
                let name = numbers.name();
                let case = format!("seed {seed}: '{}' in {:?}", name.as_str(), topics.lines());
                let (out, into) = (Direction::is_out as fn(_) -> _, Direction::is_in as fn(_) -> _);
                let (local, remote): (Filter, Filter) = (|line| &line.local, |line| &line.remote);
                let text = |name: Option<TopicName>| name.map(|name| name.as_str().to_owned());

                let line = one_by_one(&topics, out, local, &name);
                found += usize::from(line.is_some());
                assert_eq!(topics.line_out(&name), line, "{case}");
                assert_eq!(text(topics.to_remote(&name)), mapped(&name, line, true), "{case}");
                let line = one_by_one(&topics, into, remote, &name);
                assert_eq!(text(topics.to_local(&name)), mapped(&name, line, false), "{case}");

                let back = one_by_one(&topics, into, local, &name).or_else(|| one_by_one(&topics, out, local, &name));
                let expected = mapped(&name, back, true).unwrap_or_else(|| name.as_str().to_owned());
                assert_eq!(topics.response_to_remote(name.text()).as_str(), expected, "{case}");
                let back = one_by_one(&topics, out, remote, &name).or_else(|| one_by_one(&topics, into, remote, &name));
                let expected = mapped(&name, back, false).unwrap_or_else(|| name.as_str().to_owned());
                assert_eq!(topics.response_to_local(name.text()).as_str(), expected, "{case}");
            }
        }
        assert!(found > 3000, "{found} names had a line");
    }

    #[test]
    fn a_message_looks_at_as_few_places_among_10_000_lines_as_among_10() {
        let filter = |text: String| TopicFilter::try_from(&text[..]).unwrap();
        let shapes: [fn(usize) -> String; 4] = [
            |n| format!("site/{n}/#"),
            |n| format!("{n}/+/state"),
            |n| format!("+/{n}/state"),
            |n| format!("site/{}/{}/{n}/+", n % 7, n % 31),
        ];
        let names: [fn(usize) -> String; 4] = [
            |n| format!("site/{n}/a/b/c"),
            |n| format!("{n}/x/state"),
            |n| format!("x/{n}/state"),
            |n| format!("site/{}/{}/{n}/v", n % 7, n % 31),
        ];
        for (shape, name) in shapes.into_iter().zip(names) {
            let visits = [10, 1_000, 10_000].map(|count| {
                let filters: Vec<TopicFilter> = (0..count).map(|n| filter(shape(n))).collect();
                let index = TopicIndex::new(filters.iter().enumerate());
                let mut most = 0;
                for n in [0, count / 2, count - 1] {
                    let mut visits = 0;
                    let found = index.search(&TopicName::try_from(&name(n)[..]).unwrap(), &mut || visits += 1);
                    assert_eq!(found, Some(n));
                    most = most.max(visits);
                }
                let mut visits = 0;
                let other = TopicName::try_from("elsewhere/and/deeper").unwrap();
                assert_eq!(index.search(&other, &mut || visits += 1), None);
                most.max(visits)
            });
            assert_eq!(visits[0], visits[2], "{}: {visits:?}", shape(0));
            assert!(visits[1] == visits[2] && visits[2] <= 6, "{}: {visits:?}", shape(0));
        }
    }

    #[test]
    fn what_only_a_later_line_could_match_is_not_looked_at() {
        let filters: Vec<TopicFilter> = ["a/#", "a/b/c/d", "+/b/+/d"].map(|text| text.try_into().unwrap()).into();
        let index = TopicIndex::new(filters.iter().enumerate());
        let mut visits = 0;
        assert_eq!(index.search(&"a/b/c/d".try_into().unwrap(), &mut || visits += 1), Some(0));
        assert_eq!(visits, 4, "the root, 'a', and on 'b' and '+' only that both are later");
    }
}
