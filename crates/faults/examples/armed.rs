//! A program with every point and every bug in it: what a search for their names in shipped programs must find.
#![allow(clippy::print_stdout, reason = "an example program")]

fn main() {
    let failing =
        tailway_faults::POINTS.iter().filter(|point| tailway_faults::check(point).is_err());
    println!("{} points fail", failing.count());
    let planted = tailway_faults::BUGS.iter().filter(|bug| tailway_faults::is_planted(bug));
    println!("{} bugs are planted", planted.count());
}
