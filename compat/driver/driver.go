// Package driver is the client's side of compat/driver.ts for Go: it reads one JSON request per line, has the client carry it out, and
// writes one JSON answer per line.
package driver

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
)

// Header is a record header; as JSON it is ["name", "base64"].
type Header struct {
	Name string
	Data []byte
}

func (h Header) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{h.Name, h.Data})
}

func (h *Header) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[]any{&h.Name, &h.Data})
}

// Record is a record as it is sent and read. A nil key or value is null, which is not the same as an empty one.
type Record struct {
	Partition int      `json:"partition"`
	Offset    int64    `json:"offset"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []Header `json:"headers"`
	Timestamp int64    `json:"timestamp"`
}

// Client carries out the steps. What they mean is written in compat/driver.ts.
type Client interface {
	Create(topic string, partitions int) error
	Remove(topic string) error
	Topics() ([]string, error)
	Groups() ([]string, error)
	Produce(topic, codec string, records []Record) error
	Read(topic string, partitions, count int) ([]Record, error)
	ReadAt(topic string, partition int, timestamp int64) (Record, error)
	Join(group, topic, protocol string) (Member, error)
}

// Member is a consumer in a group.
type Member interface {
	Assigned() []int
	Received() []string
	Commit() error
	Leave() error
}

type request struct {
	Op         string   `json:"op"`
	Topic      string   `json:"topic"`
	Partitions int      `json:"partitions"`
	Partition  int      `json:"partition"`
	Count      int      `json:"count"`
	Timestamp  int64    `json:"timestamp"`
	Codec      string   `json:"codec"`
	Records    []Record `json:"records"`
	Member     string   `json:"member"`
	Group      string   `json:"group"`
	Protocol   string   `json:"protocol"`
}

// Serve answers requests until standard input ends.
func Serve(client Client) {
	members := map[string]Member{}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var r request
		if err := in.Decode(&r); err == io.EOF {
			return
		} else if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		result, err := carryOut(client, members, r)
		answer := map[string]any{"result": result}
		if err != nil {
			answer = map[string]any{"error": fmt.Sprintf("%T: %v", err, err)}
		}
		if err := out.Encode(answer); err != nil {
			os.Exit(1)
		}
	}
}

func carryOut(client Client, members map[string]Member, r request) (any, error) {
	switch r.Op {
	case "create":
		return nil, client.Create(r.Topic, r.Partitions)
	case "remove":
		return nil, client.Remove(r.Topic)
	case "topics":
		return client.Topics()
	case "groups":
		return client.Groups()
	case "produce":
		return nil, client.Produce(r.Topic, r.Codec, r.Records)
	case "read":
		return client.Read(r.Topic, r.Partitions, r.Count)
	case "readAt":
		return client.ReadAt(r.Topic, r.Partition, r.Timestamp)
	case "join":
		member, err := client.Join(r.Group, r.Topic, r.Protocol)
		if err == nil {
			members[r.Member] = member
		}
		return nil, err
	}
	member, found := members[r.Member]
	if !found {
		return nil, fmt.Errorf("%s: there is no member %q", r.Op, r.Member)
	}
	switch r.Op {
	case "assigned":
		return member.Assigned(), nil
	case "received":
		return member.Received(), nil
	case "commit":
		return nil, member.Commit()
	case "leave":
		delete(members, r.Member)
		return nil, member.Leave()
	}
	return nil, fmt.Errorf("there is no operation %q", r.Op)
}

// Ledger is what a member notes from its goroutines.
type Ledger struct {
	mutex    sync.Mutex
	assigned map[int]bool
	received []string
}

// Assign notes a partition as its own.
func (l *Ledger) Assign(partition int) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.assigned == nil {
		l.assigned = map[int]bool{}
	}
	l.assigned[partition] = true
}

// Revoke notes a partition as no longer its own.
func (l *Ledger) Revoke(partition int) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	delete(l.assigned, partition)
}

// Receive notes a record.
func (l *Ledger) Receive(partition int, offset int64) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.received = append(l.received, fmt.Sprintf("%d:%d", partition, offset))
}

// Assigned is the first half of Member.
func (l *Ledger) Assigned() []int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	partitions := []int{}
	for partition := range l.assigned {
		partitions = append(partitions, partition)
	}
	return partitions
}

// Received is the second.
func (l *Ledger) Received() []string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return append([]string{}, l.received...)
}
