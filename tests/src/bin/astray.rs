//! Makes the entries of a saved vGPU lead elsewhere: `astray FILE FRAMES OUT`, as many frames further.

use std::fs;
use std::process::ExitCode;

use integration::astray::astray;
use mediated_gpu::saved::SavedGuest;

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, file, frames, out] = args.as_slice() else { return Err("usage: astray FILE FRAMES OUT".into()) };
    let saved = SavedGuest::from_bytes(&fs::read(file)?)?;
    let other = astray(&saved, frames.parse()?).ok_or("nothing in it leads anywhere")?;
    Ok(fs::write(out, other.to_bytes()?)?)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("astray: {e}");
            ExitCode::FAILURE
        }
    }
}
