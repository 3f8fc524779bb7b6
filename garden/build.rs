//! Has the program built again when a recipe changes: what `include_dir!` reads, Cargo does not know of.

fn main() {
    println!("cargo::rerun-if-changed=recipes");
}
