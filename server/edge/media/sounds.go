package media

import (
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

//go:embed audio/*.wav
var builtIn embed.FS

// sound is a file ready to be sent: its samples at 8 kHz in both laws, so that a frame
// costs a copy.
type sound struct{ ulaw, alaw []byte }

func newSound(samples []int16) *sound {
	s := &sound{ulaw: make([]byte, len(samples)), alaw: make([]byte, len(samples))}
	for i, v := range samples {
		s.ulaw[i], s.alaw[i] = ulawEncode(v), alawEncode(v)
	}
	return s
}

// frame copies the codes from sample at on. Behind the end the sound begins again, or
// is silent.
func (s *sound) frame(dst []byte, at int, law law, loop bool) {
	codes, silence := s.ulaw, byte(ulawSilence)
	if law == alaw {
		codes, silence = s.alaw, alawSilence
	}
	n := copy(dst, codes[at:])
	for n < len(dst) {
		if loop {
			n += copy(dst[n:], codes)
			continue
		}
		dst[n] = silence
		n++
	}
}

// Limits of an operator's directory: what is above is left out, and logged.
const (
	soundFileMost  = 64 << 20 // bytes of one file
	soundFilesMost = 256
	lookAgain      = 10 * time.Second
)

// library is the sounds by name: the built-in ones, and the operator's before them. The
// files are read outside Do, at the start and whenever they have changed.
type library struct {
	dir    string
	log    *slog.Logger
	stop   chan struct{}
	sounds atomic.Pointer[map[string]*sound]

	builtIn map[string]*sound
	own     map[string]ownSound
}

// ownSound is an operator's file as it was read; sound is nil when it could not be used.
type ownSound struct {
	size  int64
	mtime time.Time
	sound *sound
}

func newLibrary(dir string, log *slog.Logger) (*library, error) {
	b := &library{dir: dir, log: log, stop: make(chan struct{}), builtIn: map[string]*sound{}, own: map[string]ownSound{}}
	for _, name := range Sounds() {
		raw, err := builtIn.ReadFile("audio/" + name + ".wav")
		if err != nil {
			return nil, fmt.Errorf("media: built-in sound %s: %w", name, err)
		}
		samples, err := decodeWAV(raw)
		if err != nil {
			return nil, fmt.Errorf("media: built-in sound %s: %w", name, err)
		}
		b.builtIn[name] = newSound(samples)
	}
	if dir != "" {
		if _, err := os.ReadDir(dir); err != nil {
			return nil, fmt.Errorf("media: sounds directory (make it, or leave the setting empty): %w", err)
		}
	}
	b.look()
	return b, nil
}

// find returns the sound of a name, nil when there is none.
func (b *library) find(name string) *sound { return (*b.sounds.Load())[name] }

// watch looks at the directory every ten seconds.
func (b *library) watch() {
	if b.dir == "" {
		return
	}
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-again.C:
			b.look()
		}
	}
}

// look reads what is new in the directory. Playbacks that run keep the sound they have.
func (b *library) look() {
	all := maps.Clone(b.builtIn)
	if b.dir != "" {
		entries, err := os.ReadDir(b.dir)
		if err != nil {
			b.log.Warn("sounds directory cannot be read; the sounds stay as they were", slog.Any("error", err))
			return
		}
		seen := map[string]ownSound{}
		for _, e := range entries {
			name, ok := soundName(e.Name())
			if !ok || len(seen) >= soundFilesMost {
				continue
			}
			info, err := os.Stat(b.dir + "/" + e.Name())
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			seen[name] = b.read(name, e.Name(), info)
			if s := seen[name].sound; s != nil {
				all[name] = s
			}
		}
		b.own = seen
	}
	b.sounds.Store(&all)
}

// read returns a file's sound, from before when the file has not changed. One that cannot
// be used is logged once, and the built-in sound of that name, if any, stands in.
func (b *library) read(name, file string, info fs.FileInfo) ownSound {
	if old, ok := b.own[name]; ok && old.size == info.Size() && old.mtime.Equal(info.ModTime()) {
		return old
	}
	s := ownSound{size: info.Size(), mtime: info.ModTime()}
	samples, err := readWAV(b.dir+"/"+file, info.Size())
	if err != nil {
		b.log.Error("sound cannot be used", slog.String("file", file), slog.Any("error", err))
		return s
	}
	s.sound = newSound(samples)
	return s
}

func readWAV(path string, size int64) ([]int16, error) {
	if size > soundFileMost {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed: cut it or lower its rate", size, soundFileMost)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return decodeWAV(raw)
}

// soundName takes the extension off; ok is false for what is no WAV file.
func soundName(file string) (string, bool) {
	name, ok := strings.CutSuffix(file, ".wav")
	return name, ok && name != "" && !strings.HasPrefix(name, ".")
}
