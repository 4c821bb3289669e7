//! Links the kernel `pvh`, and nothing else, as a freestanding static image by its own script.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/bin/pvh/link.ld");
    if std::env::var_os("CARGO_FEATURE_KERNEL").is_none() {
        return;
    }
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let script = format!("-Wl,-T,{dir}/src/bin/pvh/link.ld");
    let args =
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--gc-sections"];
    for arg in args.into_iter().chain([script.as_str()]) {
        println!("cargo:rustc-link-arg-bin=pvh={arg}");
    }
}
