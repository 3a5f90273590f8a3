package gauge

import (
	"os"
	"strings"
	"testing"

	"brink/internal/testerror"
)

func TestOfReader(t *testing.T) {
	t.Parallel()
	once, err := OfReader(strings.NewReader(strings.Repeat("brink", 1e6)))
	if err != nil || once < 100 || once > 10_000 {
		t.Fatalf("%d, %v", once, err)
	}
	if again, err := OfReader(strings.NewReader(strings.Repeat("brink", 1e6))); again != once || err != nil {
		t.Errorf("the same content has %d and then %d, %v", once, again, err)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	for _, got := range []int64{98_000_000, 100_000_000, 101_000_000} {
		if err := Compare(got, 100_000_000); err != nil {
			t.Errorf("%d: %v", got, err)
		}
	}
	testerror.OneLine(t, Compare(101_000_001, 100_000_000), "grows by 1.0 %", "| 101000001 | why |")
	testerror.OneLine(t, Compare(97_999_999, 100_000_000), "shrinks by 2.0 %", "| 97999999 | why |")
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/size.md")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Recorded(page); err != nil || n < 30e6 || n > 90e6 {
		t.Errorf("docs/size.md: %d, %v", n, err)
	}
	got, err := Recorded([]byte("| gauge | why |\n|---|---|\n| 12345678 | a |\n| 23456789 | b c |\n| 3 | d |\n| 34567890 |  |\n"))
	if got != 23456789 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	_, err = Recorded(nil)
	testerror.OneLine(t, err, "no row like")
}
