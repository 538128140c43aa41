//! Tells the linker how the image is laid out.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rerun-if-changed=image.ld");
    println!("cargo:rustc-link-arg-bins=-T{dir}/image.ld");
    // Code of the aarch64 small model is position-independent as it is; with
    // -pie the linker turns what absolute addresses data holds into relative
    // relocations, which the first instructions apply.
    println!("cargo:rustc-link-arg-bins=-pie");
    // 8 KiB less of them: a bit in place of 24 bytes for most.
    println!("cargo:rustc-link-arg-bins=--pack-dyn-relocs=relr");
    println!("cargo:rustc-link-arg-bins=--no-dynamic-linker");
    println!("cargo:rustc-link-arg-bins=--build-id=none");
    // Constants hold relocated pointers too; they are relocated before the MMU
    // makes them read-only.
    println!("cargo:rustc-link-arg-bins=-znotext");
}
