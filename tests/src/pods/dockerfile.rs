//! What is known to go wrong with Dockerfiles, as rules; their numbers are those of hadolint.
//! Always true: pure; a rule that is broken is one line, with the instruction.
use super::image::{Instruction, flags, instructions};
use std::collections::{BTreeMap, BTreeSet};

/// One line for each finding.
#[must_use]
pub fn lint(text: &str) -> Vec<String> {
    let all = instructions(text);
    let last = all.iter().rposition(|instruction| instruction.name == "FROM").unwrap_or(0);
    let mut found = Vec::new();
    let (mut arguments, mut stages) = (BTreeMap::new(), BTreeSet::new());
    for instruction in &all {
        let Instruction { name, rest } = instruction;
        match name.as_str() {
            "ARG" => {
                drop(rest.split_once('=').map(|(name, value)| arguments.insert(name.to_owned(), value.to_owned())))
            }
            "FROM" => {
                let (image, stage) = rest.split_once(" AS ").unwrap_or((rest, ""));
                let image = arguments
                    .iter()
                    .fold(image.to_owned(), |image, (name, value)| image.replace(&format!("${{{name}}}"), value));
                let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
                if !stages.contains(&image) && (tag.is_empty() || tag == "latest" || tag.contains('$')) {
                    found.push(format!("DL3006 {name} {rest}: no version is named"));
                }
                stages.insert(stage.to_owned());
            }
            "COPY" => {
                let from = flags(rest).0.get("from").map(|from| (*from).to_owned());
                if from.is_some_and(|from| !stages.contains(&from)) {
                    found.push(format!("DL3022 {name} {rest}: no such stage"));
                }
            }
            "RUN" => found.extend(lint_run(rest).into_iter().map(|why| format!("{why}: RUN {rest}"))),
            "CMD" | "ENTRYPOINT" if !rest.starts_with('[') => {
                found.push(format!("DL3025 {name} {rest}: a shell would stand between the signals and the program"));
            }
            "WORKDIR" if !rest.starts_with('/') => found.push(format!("DL3000 {name} {rest}: not absolute")),
            "EXPOSE" if rest.split(' ').any(|port| port.parse::<u16>().is_err()) => {
                found.push(format!("DL3011 {name} {rest}: no port"));
            }
            "ADD" => found.push(format!("DL3020 {name} {rest}: COPY does less")),
            "MAINTAINER" => found.push(format!("DL4000 {name}: a label says it")),
            _ => {}
        }
    }
    found.extend(lint_last_stage(&all[last..]));
    found
}

fn lint_run(rest: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let words: Vec<&str> = flags(rest).1.split_whitespace().collect();
    let mut says = |bad: bool, why| found.extend(bad.then_some(why));
    says(words.contains(&"sudo"), "DL3004 sudo");
    says(words.first() == Some(&"cd"), "DL3003 WORKDIR is for that");
    says(words.contains(&"|") && !rest.contains("pipefail"), "DL4006 a failure before the pipe is not seen");
    let installs = rest.contains("apt-get install");
    says(installs && !rest.contains("--no-install-recommends"), "DL3015 more than is needed is installed");
    says(installs && !rest.contains("/var/lib/apt/lists"), "DL3009 lists of packages stay in the image");
    says(rest.contains("apt-get upgrade") || rest.contains("dist-upgrade"), "DL3005 a newer base image is for that");
    found
}

fn lint_last_stage(stage: &[Instruction]) -> Vec<String> {
    let mut found = Vec::new();
    let of = |name: &str| stage.iter().filter(|one| one.name == name).collect::<Vec<_>>();
    for name in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
        if of(name).len() > 1 {
            found.push(format!("DL4003 {name}: only the last counts"));
        }
    }
    // Kubernetes knows that a number is not root; of a name it does not.
    let user = of("USER").last().map_or("0", |user| user.rest.as_str());
    if !user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id != 0)) {
        found.push(format!("DL3002 USER {user}: root, or a name"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_good_is_not_found_fault_with() {
        let good = "ARG V=1.2\nFROM rust:${V}-slim AS build\nRUN make\nFROM debian:12-slim\nCOPY --from=build /a /a\n\
                    WORKDIR /x\nEXPOSE 1883 7883\nUSER 1883:1883\nCMD [\"/a\"]\n";
        assert_eq!(lint(good), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        for (line, rule) in [
            ("FROM debian", "DL3006"),
            ("FROM debian:latest", "DL3006"),
            ("COPY --from=nowhere /a /a", "DL3022"),
            ("CMD /a -b", "DL3025"),
            ("WORKDIR x", "DL3000"),
            ("EXPOSE 99999", "DL3011"),
            ("ADD a /a", "DL3020"),
            ("RUN sudo make", "DL3004"),
            ("RUN cd /x && make", "DL3003"),
            ("RUN a | b", "DL4006"),
            ("RUN apt-get install -y x && rm -r /var/lib/apt/lists", "DL3015"),
            ("RUN apt-get install --no-install-recommends -y x", "DL3009"),
            ("USER root", "DL3002"),
            ("CMD [\"/b\"]", "DL4003"),
        ] {
            let found = lint(&format!("FROM debian:12\nUSER 1\nCMD [\"/a\"]\n{line}\n"));
            assert!(found.iter().any(|one| one.starts_with(rule)), "{line}: {found:?}");
        }
    }
}
