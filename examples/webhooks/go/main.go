// A webhook receiver as a service, standard library only. One file that grows is all its memory: what is not in it did not
// happen. An event is on disk before it is acknowledged, and a doubt before a request leaves.
//
//	go build -o receiver . && WEBHOOK_SECRET=... ./receiver -journal /var/lib/receiver/journal -orders URL -emails URL -credits URL
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	tolerance = 300 * time.Second
	bodyMax   = 1 << 20
	keysLive  = 23 * time.Hour // the callees honour a key for 24 hours: what is in doubt for longer is for a person
)

// An effect is named after what it is about, so that two events about one payment ask for the same one.
type effect struct {
	key, to        string
	version        int
	reference      string // what it is called at the callee
	object, status string
	doubt          time.Time // since when it may have happened without our knowing
	done           bool
	due            time.Time
}

// A record is a line of the journal: an event as it came, or what became of an effect.
type record struct {
	ID, Body string `json:",omitempty"`
	Key      string `json:",omitempty"`
	Version  int    `json:",omitempty"`
	Doubt    int64  `json:",omitempty"` // seconds since the epoch
	Settled  string `json:",omitempty"` // "done" or "not done"
}

type receiver struct {
	secret  []byte
	callees map[string]string
	client  *http.Client
	wake    chan struct{}

	mu      sync.Mutex
	journal *os.File
	events  map[string]bool
	effects map[string]*effect
	order   []string // of the effects, as they were asked for
}

func open(path string) (*receiver, error) {
	r := &receiver{events: map[string]bool{}, effects: map[string]*effect{}, wake: make(chan struct{}, 1)}
	past, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for _, line := range bytes.Split(past, []byte("\n")) {
		var one record
		if json.Unmarshal(line, &one) == nil { // a line that a kill cut short was never acknowledged
			r.learn(one)
		}
	}
	r.journal, err = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return r, err
}

// keep returns when the record is on disk. If the disk refuses, nothing may be acknowledged and nothing be sent.
func (r *receiver) keep(one record) error {
	line, err := json.Marshal(one)
	if err != nil {
		return err
	}
	if _, err = r.journal.Write(append([]byte("\n"), line...)); err == nil {
		err = r.journal.Sync()
	}
	if err == nil {
		r.learn(one)
	}
	return err
}

func (r *receiver) learn(one record) {
	if known := r.effects[one.Key]; known != nil {
		switch {
		case known.version != one.Version: // about an older version: that is over
		case one.Doubt != 0:
			known.doubt = time.Unix(one.Doubt, 0)
		default:
			known.doubt, known.done = time.Time{}, one.Settled == "done"
		}
	} else if one.ID != "" && !r.events[one.ID] {
		r.events[one.ID] = true
		for _, asked := range asks(one.ID, one.Body) {
			if before := r.effects[asked.key]; before == nil {
				r.order = append(r.order, asked.key)
			} else if before.version >= asked.version {
				continue // events come in any order
			}
			r.effects[asked.key] = asked
		}
	}
}

func asks(id, body string) (effects []*effect) {
	var event struct {
		Type string
		Data struct {
			Payment, Order, Status string
			Version                int
		}
	}
	if json.Unmarshal([]byte(body), &event) != nil {
		return nil // signed, but nothing that we can read: it is kept, for a person to look at
	}
	switch event.Type {
	case "invoice.paid", "checkout.session.completed", "payment_intent.succeeded":
		for _, to := range []string{"orders", "emails", "credits"} {
			name := to + ":" + event.Data.Payment
			effects = append(effects, &effect{key: name, to: to, reference: name})
		}
	case "order.updated":
		effects = append(effects, &effect{key: event.Data.Order, to: "orders", version: event.Data.Version,
			reference: "status:" + id, object: event.Data.Order, status: event.Data.Status})
	}
	return effects
}

// ServeHTTP takes a delivery.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, bodyMax))
	switch id := request.Header.Get("webhook-id"); {
	case request.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case err != nil:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	case !r.genuine(request.Header, body):
		w.WriteHeader(http.StatusUnauthorized)
	case r.store(id, string(body)) != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

func (r *receiver) store(id, body string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events[id] {
		return nil
	}
	return r.keep(record{ID: id, Body: body})
}

// genuine: Standard Webhooks 1.0, scheme v1.
func (r *receiver) genuine(headers http.Header, body []byte) bool {
	id, sent := headers.Get("webhook-id"), headers.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(sent, 10, 64)
	if age := time.Since(time.Unix(seconds, 0)); err != nil || id == "" || age > tolerance || age < -tolerance {
		return false
	}
	mac := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(mac, "%s.%s.%s", id, sent, body)
	wanted := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for _, given := range strings.Fields(headers.Get("webhook-signature")) {
		if hmac.Equal(wanted, []byte(given)) {
			return true
		}
	}
	return false
}

// send works off what is due, one effect after the other, for ever.
func (r *receiver) send() {
	for {
		for _, one := range r.due() {
			if err := r.attempt(one); err != nil {
				log.Printf("%s waits: %v", one.key, err)
			}
		}
		select {
		case <-r.wake:
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (r *receiver) due() (effects []effect) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range r.order {
		if one := r.effects[key]; !one.done && !time.Now().Before(one.due) {
			one.due = time.Now().Add(time.Second)
			effects = append(effects, *one)
		}
	}
	return effects
}

func (r *receiver) attempt(one effect) error {
	doubt := one.doubt
	switch {
	case doubt.IsZero():
	case one.to == "credits": // honours no key: ask what it has, but not while a lost request may still be at work
		if time.Since(doubt) < r.client.Timeout {
			return nil
		}
		status, err := r.ask(http.MethodGet, one.to, "/"+url.PathEscape(one.key), "", nil)
		if err != nil {
			return err
		} else if status == http.StatusOK {
			return r.settle(one, "done")
		} else if status != http.StatusNotFound {
			return fmt.Errorf("the look-up was answered %d", status)
		}
		doubt = time.Time{} // it has nothing, so nothing happened
	case time.Since(doubt) > keysLive:
		return fmt.Errorf("in doubt since %s: look, then settle it by hand", doubt)
	}
	since := doubt
	if since.IsZero() {
		since = time.Now()
	}
	if err := r.write(record{Key: one.key, Version: one.version, Doubt: since.Unix()}); err != nil {
		return err
	}
	body, err := json.Marshal(struct {
		Reference string `json:"reference"`
		Object    string `json:"object,omitempty"`
		Status    string `json:"status,omitempty"`
	}{one.reference, one.object, one.status})
	if err != nil {
		return err
	}
	status, err := r.ask(http.MethodPost, one.to, "", fmt.Sprintf("%s:%d", one.key, one.version), body)
	if err != nil {
		return err // nobody knows: the doubt stays
	} else if status == http.StatusOK {
		return r.settle(one, "done")
	} else if status == http.StatusServiceUnavailable && doubt.IsZero() {
		return r.settle(one, "not done")
	}
	return fmt.Errorf("answered %d", status)
}

func (r *receiver) ask(method, to, path, key string, body []byte) (int, error) {
	request, err := http.NewRequest(method, r.callees[to]+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	answer, err := r.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

// settle keeps what an answer said: done, or not done.
func (r *receiver) settle(one effect, settled string) error {
	return r.write(record{Key: one.key, Version: one.version, Settled: settled})
}

func (r *receiver) write(one record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keep(one)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "address to listen on")
	journal := flag.String("journal", "journal", "the file that remembers")
	secretEnv := flag.String("secret-env", "WEBHOOK_SECRET", "the variable that holds the secret")
	timeout := flag.Duration("timeout", 10*time.Second, "how long a callee may take")
	callees := map[string]string{}
	for _, name := range []string{"orders", "emails", "credits"} {
		name := name
		flag.Func(name, "URL of "+name, func(u string) error { callees[name] = u; return nil })
	}
	flag.Parse()
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv(*secretEnv), "whsec_"))
	if err != nil || len(secret) < 24 || len(callees) < 3 {
		log.Fatalf("needs -orders, -emails, -credits, and a base64 secret in %s", *secretEnv)
	}
	r, err := open(*journal)
	if err != nil {
		log.Fatal(err)
	}
	r.secret, r.callees, r.client = secret, callees, &http.Client{Timeout: *timeout}
	go r.send()
	mux := http.NewServeMux()
	mux.Handle("/webhooks", r)
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
