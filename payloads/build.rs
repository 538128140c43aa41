//! Lays the programs out so that a kernel with pages of any size can load them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The Arm machine's programs are linked by the linker itself, or through a compiler.
    let environment = std::env::var("CARGO_CFG_TARGET_ENV");
    let option = match environment.as_deref() {
        Ok("musl") => "-zmax-page-size=65536",
        _ => "-Wl,-z,max-page-size=65536",
    };
    println!("cargo::rustc-link-arg-bins={option}");
}
