#!/bin/sh
# Makes the built-in sounds: 8 kHz, mono, 16 bit, as the telephone hears them.
# Needs espeak-ng and sox (Debian: apt-get install espeak-ng sox). The music is composed
# below out of synthesised strings, so nobody else holds rights on it.
# Run it in this directory; -R makes sox draw the same noise each time.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# speak NAME TEXT: telephone band, even loudness, a short silence on both ends.
speak() {
	espeak-ng -v en-us+f3 -s 150 -p 45 -w "$work/voice.wav" "$2"
	sox -R "$work/voice.wav" -r 8000 -c 1 -b 16 -e signed-integer "$1.wav" \
		highpass 200 lowpass 3500 silence 1 0.01 0.5% reverse silence 1 0.01 0.5% reverse \
		norm -6 pad 0.15 0.25
}
speak welcome "Welcome. Please hold while we connect you."
speak all-busy "All our agents are busy. Please try again later."
speak nobody "We are closed at the moment."

sox -R -n -r 8000 -c 1 -b 16 -e signed-integer beep.wav synth 0.4 sine 880 fade q 0.02 0.4 0.05 gain -12

# Hold music: eight bars of 2.5 s (96 quarter notes per minute), eight plucked notes each,
# over a soft two-voice pad. A bar rings on into the next one.
bar() { # bar NUMBER BASS PAD1 PAD2 NOTE x 8
	n=$1 bass=$2 one=$3 two=$4
	shift 4
	sox -R -n -r 8000 -c 1 "$work/notes$n.wav" synth 1.6 \
		pluck "$1" pluck "$2" pluck "$3" pluck "$4" pluck "$5" pluck "$6" pluck "$7" pluck "$8" \
		fade h 0.004 1.6 0.5 delay 0 .3125 .625 .9375 1.25 1.5625 1.875 2.1875 remix 1-8
	sox -R -n -r 8000 -c 1 "$work/pad$n.wav" synth 3.1 sine "$bass" sine "$one" sine "$two" \
		fade h 0.7 3.1 0.6 remix 1-3
	sox -R -m -v 0.62 "$work/notes$n.wav" -v 0.14 "$work/pad$n.wav" -r 8000 -c 1 "$work/bar$n.wav"
}
bar 0 C3 E4 G4 C4 G4 E4 C5 G4 E4 B4 G4
bar 1 A2 E4 C4 A3 E4 C4 A4 E4 C4 G4 E4
bar 2 F2 F4 A4 F3 C4 A3 F4 C4 A4 E4 C4
bar 3 G2 D4 G4 G3 D4 B3 G4 D4 B4 D5 B4
bar 4 C3 E4 G4 C4 E4 G4 B4 D5 B4 G4 E4
bar 5 E2 E4 B4 E3 B3 G4 E4 B4 G4 E4 B3
bar 6 F2 A4 C4 F3 A3 C4 E4 A4 E4 C4 A3
bar 7 G2 D4 B4 G3 B3 D4 F4 A4 F4 D4 B3

# Two rounds with the tails mixed in; the second round begins with the tail of the first
# and is as long as a round, so its end runs into its beginning without a click.
set --
for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
	at=$(echo "$n * 2.5" | bc -l)
	sox -R "$work/bar$((n % 8)).wav" "$work/at$n.wav" pad "$at"
	set -- "$@" -v 0.5 "$work/at$n.wav"
done
sox -R -m "$@" "$work/rounds.wav"
sox -R "$work/rounds.wav" "$work/room.wav" highpass 120 lowpass 3300 reverb 35 50 60 gain -n -1
sox -R "$work/room.wav" -r 8000 -c 1 -b 16 -e signed-integer music.wav trim 20 20 gain -n -9
