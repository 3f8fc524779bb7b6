#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mailrecv_fuzz::letter::check(input));
