//! News: whether something is worth a line in the log.
//!
//! Owns how often it was told lately. What strangers can make happen as often as they like is told once in
//! a while, so that they do not fill the log. Called by whoever listens.

use std::time::{Duration, Instant};

/// For so long nothing further is told.
const WINDOW: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct News {
    times_max: u32,
    times: u32,
    began: Option<Instant>,
}

impl Default for News {
    /// Told once.
    fn default() -> Self {
        Self::told(1)
    }
}

impl News {
    /// Of what is told so many times in a minute.
    pub fn told(times_max: u32) -> Self {
        Self {
            times_max,
            times: 0,
            began: None,
        }
    }

    /// Notes that it happened; whether to tell it.
    pub fn is_news(&mut self) -> bool {
        self.is_news_at(Instant::now())
    }

    fn is_news_at(&mut self, now: Instant) -> bool {
        let is_over = |began| now.duration_since(began) >= WINDOW;
        if self.began.is_none_or(is_over) {
            self.began = Some(now);
            self.times = 0;
        }
        self.times = self.times.saturating_add(1);
        self.times <= self.times_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i4_it_is_told_so_often_and_again_in_the_next_minute() {
        let mut news = News::told(2);
        let began = Instant::now();
        for minute in 0..3 {
            let now = began + minute * WINDOW;
            let told = (0..1000).filter(|_| news.is_news_at(now)).count();
            assert_eq!(told, 2, "minute {minute}");
        }
    }
}
