// Package typo guesses which name was meant by one that doesn't exist. It is asked when a mistake is told, and never before.
package typo

import "strings"

// longest is how many bytes a name may have for a guess: names come from files that may be hostile, and to compare takes the
// product of two lengths.
const longest = 64

// Nearest returns the name that is most like word: of several one that begins with word, or else the first; "" if none is like
// it enough for it to be a slip of the pen: one letter in three, or three letters, that are other ones, too many, missing or
// changed places. Case doesn't count.
func Nearest(word string, names []string) string {
	if len(word) > longest {
		return ""
	}
	word = strings.ToLower(word)
	best, nearest := "", min(3, (len(word)+1)/3)+1
	for _, name := range names {
		if len(name) > longest || len(name) > len(word)+nearest || len(word) > len(name)+nearest {
			continue
		}
		lower := strings.ToLower(name)
		d := distance(word, lower)
		// Of equals, the one that was not typed to its end.
		unfinished := best != "" && d == nearest && strings.HasPrefix(lower, word) && !strings.HasPrefix(strings.ToLower(best), word)
		if (d < nearest || unfinished) && d < len(name) {
			best, nearest = name, d
		}
	}
	return best
}

// distance is how many bytes have to be inserted, taken away, replaced, or swapped with their neighbour to make b of a.
func distance(a, b string) int {
	// Row i has the distances of a[:i] from the beginnings of b; a swap looks two rows back.
	var rows [3][longest + 1]int
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		row, above, over := &rows[i%3], &rows[(i+2)%3], &rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := above[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(above[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], over[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}
