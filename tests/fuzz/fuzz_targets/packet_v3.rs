#![no_main]
#[path = "../targets.rs"]
#[allow(dead_code)]
mod targets;
libfuzzer_sys::fuzz_target!(init: targets::quiet(), |bytes: &[u8]| targets::packet_v3(bytes));
