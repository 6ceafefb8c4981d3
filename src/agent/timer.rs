//! An alarm on CLOCK_BOOTTIME with the precision of the kernel's timers. tokio's own round up to a whole millisecond, and stand still while
//! the machine is suspended.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use super::readiness;
use super::runs::Now;
use crate::clock;

const MICROS_PER_SEC: i64 = 1_000_000;

/// Both clocks, read together.
pub fn now() -> Now {
    Now { boot_us: boottime_us(), wall_us: clock::wall_us() }
}

/// CLOCK_BOOTTIME in microseconds.
pub fn boottime_us() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * MICROS_PER_SEC + time.tv_nsec / 1000
}

pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    set_us: Option<i64>,
}

impl Alarm {
    /// Call it in a runtime with IO.
    pub fn new() -> io::Result<Alarm> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Alarm { timer: readiness::watch(timer)?, set_us: None })
    }

    /// Rings at this BOOTTIME, at once if it is over; none: not at all.
    pub fn set(&mut self, at_us: Option<i64>) -> io::Result<()> {
        if self.set_us == at_us {
            return Ok(());
        }
        // All zeros would switch it off.
        let at = at_us.map_or(0, |at| at.max(1));
        let it_value = Timespec { tv_sec: at / MICROS_PER_SEC, tv_nsec: at % MICROS_PER_SEC * 1000 };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        self.set_us = at_us;
        Ok(())
    }

    /// Waits until it rings.
    pub async fn ring(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.timer.readable().await?;
            let mut expirations = [0; 8];
            match rustix::io::read(guard.get_inner(), &mut expirations) {
                Ok(_) => {
                    self.set_us = None;
                    return Ok(());
                }
                // Set anew since it rang.
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_alarm_rings_at_its_time_and_not_before_and_can_be_moved() {
        let mut alarm = Alarm::new().unwrap();
        let start = boottime_us();
        alarm.set(Some(start + 3_600 * MICROS_PER_SEC)).unwrap();
        alarm.set(Some(start + 20_300)).unwrap();
        alarm.ring().await.unwrap();
        assert!(boottime_us() >= start + 20_300);
        alarm.set(Some(1)).unwrap();
        alarm.ring().await.unwrap();
    }
}
