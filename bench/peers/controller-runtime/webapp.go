package main

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var groupVersion = schema.GroupVersion{Group: "apps.windlass.dev", Version: "v1alpha1"}

func addToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(groupVersion, &WebApp{}, &WebAppList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	return nil
}

// WebApp is what plugins/webapp/crd.yaml says.
type WebApp struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   WebAppSpec   `json:"spec"`
	Status WebAppStatus `json:"status,omitempty"`
}

// WebAppSpec is what its owner wants; the CRD fills in the defaults.
type WebAppSpec struct {
	Image     string            `json:"image"`
	Replicas  int32             `json:"replicas"`
	Port      int32             `json:"port"`
	Config    map[string]string `json:"config,omitempty"`
	Host      string            `json:"host,omitempty"`
	Resources webAppResources   `json:"resources,omitempty"`
}

type webAppResources struct {
	Requests corev1.ResourceList `json:"requests,omitempty"`
	Limits   corev1.ResourceList `json:"limits,omitempty"`
}

// WebAppStatus is how far it is.
type WebAppStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Replicas           int32              `json:"replicas"`
	ReadyReplicas      int32              `json:"readyReplicas"`
	Selector           string             `json:"selector,omitempty"`
	URL                string             `json:"url,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// WebAppList is a list of them.
type WebAppList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []WebApp `json:"items"`
}

// DeepCopy is what controller-gen would write.
func (in *WebApp) DeepCopy() *WebApp {
	out := &WebApp{TypeMeta: in.TypeMeta, Spec: in.Spec, Status: in.Status}
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.Config = maps.Clone(in.Spec.Config)
	out.Spec.Resources.Requests = in.Spec.Resources.Requests.DeepCopy()
	out.Spec.Resources.Limits = in.Spec.Resources.Limits.DeepCopy()
	out.Status.Conditions = slices.Clone(in.Status.Conditions)
	return out
}

// DeepCopyObject implements runtime.Object.
func (in *WebApp) DeepCopyObject() runtime.Object { return in.DeepCopy() }

// DeepCopyObject implements runtime.Object.
func (in *WebAppList) DeepCopyObject() runtime.Object {
	out := &WebAppList{TypeMeta: in.TypeMeta, Items: make([]WebApp, len(in.Items))}
	in.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range in.Items {
		out.Items[i] = *in.Items[i].DeepCopy()
	}
	return out
}

// selector finds the pods; it depends on nothing that changes. Names are at most 63 bytes, says the CRD.
func (in *WebApp) selector() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "webapp", "app.kubernetes.io/instance": in.Name}
}

// labels are those of every child.
func (in *WebApp) labels() map[string]string {
	labels := in.selector()
	labels["app.kubernetes.io/managed-by"] = "windlass"
	return labels
}
